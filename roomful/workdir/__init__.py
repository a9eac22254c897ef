"""What deploy, create-folders and collect run on a host: everything that knows the layout of a workdir.

These modules import only the standard library and each other, and run under any python3 >= 3.8. They travel as text
over SSH (``roomful.host_program``); nothing is installed. Paths are bytes in them: a host's locale may not be the
controller's. Where a request or an answer holds a path, it is text in which any bytes survive (``files.text``).
"""
