"""Files that survive a kill, readers with limits, the owners of folders, the user's cache, HTTP and figures."""
