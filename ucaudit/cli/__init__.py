"""One file a command: parse, call the library, print, exit. The only room that prints or exits."""
