"""What each command does, as a function of a request: `submit(SubmitRequest(...))`. The command line parses, calls and prints."""
