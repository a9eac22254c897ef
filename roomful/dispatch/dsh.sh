#!/bin/sh
# dsh, see roomful/dsh.py. Installed as it is: the wrapper that pip makes for an entry point takes twice as long, most
# of it for looking through site-packages (-S leaves that out) and for modules that are not needed.
bin=${0%/*}
python=$bin/python3
[ -x "$python" ] || python=python3
exec "$python" -E -S -P -c '
import sys
major, minor, *_ = sys.version_info
sys.path.insert(0, f"{sys.argv[1]}/../lib/python{major}.{minor}/site-packages")
try:
    from roomful.dsh import main
except ImportError:
    import site
    site.main()
    from roomful.dsh import main
main(sys.argv[2:])' "$bin" "$@"
