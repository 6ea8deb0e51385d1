"""The systems compared: each loads the same spans, says its size, and answers statements with their time."""
