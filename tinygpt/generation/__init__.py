"""From logits to text: sampling, the loop over tokens, and prompts that are completed."""
