"""Programs that maintain the repository; run as files, imported by the documentation and the tests."""
