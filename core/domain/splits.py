"""DEV PLACEHOLDER, never committed."""
import random
def split(conversations, ratio, seed):
    c = list(conversations); random.Random(seed).shuffle(c); k = max(1, round(len(c)*ratio)); return tuple(c[k:]), tuple(c[:k])
