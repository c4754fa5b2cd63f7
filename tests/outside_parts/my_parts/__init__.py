"""Parts as a user of mmsbm writes them, in a package of their own.

The problem is a boat on a lake: its heading, an angle, and its place. Each module has
the parts of one sort; `config.py` names them as 'my_parts.MODULE:NAME'.
"""
