"""The embedded world: captioned clips of a moving oval, and a reader that measures them."""
