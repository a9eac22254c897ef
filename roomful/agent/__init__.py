"""What runs on clients and on the server: needs only Python 3.8, its standard library and the bundled redis-py.

Nothing here imports anything of the controller's.
"""
