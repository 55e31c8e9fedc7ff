"""For whoever changes the pack: writes every text that repeats the words of the nodes."""
