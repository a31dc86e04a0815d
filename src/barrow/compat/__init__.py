"""Other libraries' names on barrow's layers: change the import line, keep the code."""
