"""What the examples share. `inv lab.up --count 2` makes hosts for them; put your own host list's name here."""

from __future__ import annotations

from roomful.experiments import ServerList

servers = ServerList.from_hosts("lab")
