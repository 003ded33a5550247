"""HTTP: OpenAI's API over the engine, questions to a folder of documents, and the web page."""
