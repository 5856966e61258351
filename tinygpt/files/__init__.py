"""
Files on disk and on servers.

    written     atomic (one file), directory_swap (a folder as a whole), sealed_json (with a checksum), figures
    both        state_file: nested dictionaries of arrays and numbers, in place of torch.save and torch.load
    read        input_file, json_file, safetensors_file: within limits; one_line for what errors quote
    shared      locks, process_identity, owner_file, ownership: which process may write
    found       locate: the folder that a name means; user_cache, cache_contents
    fetched     http_client, fetch (published tokenizers), hub (Hugging Face)
"""
