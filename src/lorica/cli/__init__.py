"""The command line, one verb per file: parse, call one public function, print."""
