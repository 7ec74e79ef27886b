"""The units: that systemd takes them, and how little each may do."""
