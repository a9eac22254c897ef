"""What runs on clients and on the server: needs only Python 3.8, its standard library and the bundled redis-py.

Nothing here imports anything of the controller's.
"""

from __future__ import annotations

#: Of the agent's side of the queue: rises when agents and controller of different versions could misunderstand.
VERSION = 1
