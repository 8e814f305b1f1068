"""The code that runs in a contestant's process; standard library only, as its Python may lack rmexport and numpy."""
