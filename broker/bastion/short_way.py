"""The short way of a keystroke and its echo through asyncssh: what it does for any packet, once, for the packet that counts.

An echo passes this process twice, and most of what asyncssh does for it on the way is for other ciphers, encodings and
packets. What is not the plain case takes asyncssh's own way. The private names of asyncssh in use stand here and in `transport`.
Source: RFC 4253, section 6; RFC 4254, section 5.2; RFC 5647, section 7.
"""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any, Final

from asyncssh import encryption
from asyncssh.constants import MSG_CHANNEL_DATA
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_DATA_HEAD: Final = struct.Struct(">IBBII")
_OPENED_HEAD: Final = struct.Struct(">BBII")
_TAG_BYTES: Final = 16
_SHORTEST_BYTES: Final = 4 + _TAG_BYTES + _TAG_BYTES
SHORT_BYTES: Final = 4096
_BLOCK_BYTES: Final = 16
_PADDING_MIN_BYTES: Final = 4
_COUNTER_END: Final = 1 << 64
LOOK_S: Final = 1.0


class KeptKeyCipher(GCMCipher):
    """AES-GCM for one direction of a connection, the key schedule made once; asyncssh makes it anew for each packet."""

    def __init__(self, cipher_name: str, key: bytes, iv: bytes) -> None:
        super().__init__(cipher_name, key, iv)
        self._aead = AESGCM(key)
        self._fixed, self._counter = iv[:4], int.from_bytes(iv[4:], "big")

    def encrypt_and_sign(self, header: bytes, data: bytes) -> tuple[bytes, bytes]:
        """The header, and the sealed rest with its tag behind it: asyncssh joins the two."""
        return header, self._aead.encrypt(self._next_nonce(), data, header)

    def verify_and_decrypt(self, header: bytes, data: bytes, mac: bytes) -> bytes | None:
        """The opened rest; None when it was changed."""
        try:
            return self._aead.decrypt(self._next_nonce(), data + mac, header)
        except InvalidTag:
            return None

    def take_back(self) -> None:
        """Forget the last packet: it is opened again, by another hand."""
        self._counter = (self._counter - 1) % _COUNTER_END

    def _next_nonce(self) -> bytes:
        counter = self._counter
        self._counter = (counter + 1) % _COUNTER_END
        return self._fixed + counter.to_bytes(8, "big")


setattr(encryption, "GCMCipher", KeptKeyCipher)  # noqa: B010, the name is private there


class ShortWay:
    """Writes the data of one channel."""

    def __init__(self, chan: Any) -> None:
        self._chan = chan
        self._looked = False

    def write(self, data: bytes) -> None:
        """As the channel's own `write`, without its queue where nothing waits in it. Raises OSError: it takes no more."""
        chan, size = self._chan, len(data)
        conn = chan._conn
        if (
            self._looked
            and size
            and not chan._send_buf
            and chan._send_state == "open"
            and size <= chan._send_window
            and size <= chan._send_pktsize
            and conn is not None
            and _is_plain(conn)
        ):
            chan._send_window -= size
            _send(conn, chan._send_chan, data)
            return
        if not self._looked:  # once a second asyncssh's own way: it looks whether an hour's key exchange is due
            self._looked = True
            asyncio.get_running_loop().call_later(LOOK_S, self._look_again)
        chan.write(data)

    def _look_again(self) -> None:
        self._looked = False


def receive_short(conn: Any) -> None:
    """Have one small packet of channel data that came alone delivered at once; whatever else comes takes asyncssh's way.

    Such a packet is opened twice when it turns out to be something else: less than one in a hundred.
    """
    receive = conn.data_received

    def data_received(data: bytes, datatype: int | None = None) -> None:
        if _SHORTEST_BYTES <= len(data) <= SHORT_BYTES and not conn._inpbuf and _deliver(conn, data):
            conn._reset_keepalive_timer()
        else:
            receive(data, datatype)

    conn.data_received = data_received


def _deliver(conn: Any, data: bytes) -> bool:
    sealing = conn._recv_encryption
    if (
        type(sealing) is not GCMEncryption
        or type(sealing._cipher) is not KeptKeyCipher
        or not conn._kex_complete
        or not conn._auth_final
        or conn._decompressor
        or conn._recv_handler != conn._recv_pkthdr
        or int.from_bytes(data[:4], "big") != len(data) - 4 - _TAG_BYTES
    ):
        return False
    opened = sealing._cipher.verify_and_decrypt(data[:4], data[4:-_TAG_BYTES], data[-_TAG_BYTES:])
    if opened is not None and opened[1] == MSG_CHANNEL_DATA:
        padding, _, number, size = _OPENED_HEAD.unpack_from(opened)
        chan = conn._channels.get(number)
        if (
            size
            and size == len(opened) - _OPENED_HEAD.size - padding
            and chan is not None
            and chan._session is not None
            and chan._recv_state == "open"
            and chan._send_state == "open"
            and not chan._recv_paused
            and chan._recv_window - size >= chan._init_recv_window / 2
        ):
            conn._recv_seq = (conn._recv_seq + 1) & 0xFFFFFFFF
            chan._recv_window -= size
            try:
                chan._session.data_received(opened[_OPENED_HEAD.size : _OPENED_HEAD.size + size], None)
            except Exception:
                conn.internal_error()
            return True
    sealing._cipher.take_back()
    return False


def _is_plain(conn: Any) -> bool:
    """Whether a packet may go the short way now: AES-GCM, nothing compressed, no key exchange begun or due by size."""
    transport = conn._transport
    return (
        conn._kex_complete
        and conn._auth_complete
        and type(conn._send_encryption) is GCMEncryption
        and not conn._compressor
        and conn._rekey_bytes_sent < conn._rekey_bytes
        and transport is not None
        and not transport.is_closing()
    )


def _send(conn: Any, number: int, data: bytes) -> None:
    filled = _OPENED_HEAD.size + len(data)
    padding = -filled % _BLOCK_BYTES
    if padding < _PADDING_MIN_BYTES:
        padding += _BLOCK_BYTES
    length = filled + padding
    packet = _DATA_HEAD.pack(length, padding, MSG_CHANNEL_DATA, number, len(data)) + data + os.urandom(padding)
    header, sealed = conn._send_encryption.encrypt_packet(conn._send_seq, packet[:4], packet[4:])
    conn._transport.write(header + sealed)
    conn._send_seq = (conn._send_seq + 1) & 0xFFFFFFFF
    conn._rekey_bytes_sent += length
