"""GPT-2: its sizes, the model, its key/value cache, and the folders that hold its weights."""
