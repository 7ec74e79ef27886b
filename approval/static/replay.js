"use strict";
// Starts the player where the page has a place for it; the page says itself what to do without it.
(() => {
  const place = document.getElementById("player");
  const note = document.getElementById("player-note");
  if (!place || !note) return;
  const fail = () => { note.hidden = false; };
  try {
    const player = AsciinemaPlayer.create(place.dataset.cast, place, {
      fit: "width",
      idleTimeLimit: 2,
      preload: true,
      controls: true,
      terminalFontSize: "small",
    });
    player.addEventListener("error", fail);
  } catch (error) {
    console.error(error);
    fail();
  }
})();
