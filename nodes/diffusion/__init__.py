"""Shell. Workers that make pictures and clips: their process, their queue, and the files that they make."""
