"""Studies: tasks x encoders x data x seeds, run side by side and put into one table.

`study` reads the file and lays out the cells, `runner` runs each in a process of its own, `tables` makes what comes
out into intervals and paired differences, `launch` writes the lines for a cluster, `cost` times a few updates.
"""

from __future__ import annotations
