"""The house as a whole: how the programs are installed, copied and found."""
