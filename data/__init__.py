"""The bedtime stories that come with tinygpt, one text file each; installed as the package ``tinygpt.stories``."""
