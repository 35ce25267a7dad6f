"""A small DynFocus model that runs anywhere, the synthetic videos it is trained on, and the command that trains it."""
