"""How fast tinygpt is: each benchmark checks its results first and refuses to time a wrong one."""
