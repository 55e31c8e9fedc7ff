"""From a picture to its condition image, one file per kind of condition; `kinds` lists them all.

Nothing here knows the host. Of `cnpp_core`, `weights` uses the safe file reader and nothing else.
"""
