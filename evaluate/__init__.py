"""A directory of pictures against a directory of conditions: scores, tables and a page to look at.

Above the core and the annotators, which it joins; below the command line.
"""
