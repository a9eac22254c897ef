"""What is sent to hosts and runs there: Python >= 3.8, standard library only, nothing is installed.

`launcher` and its modules serve one controller's connection (`roomful.multiplex` sends them).
"""
