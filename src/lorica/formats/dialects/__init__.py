"""One dialect of adapter files a file: recognise, read, write."""
