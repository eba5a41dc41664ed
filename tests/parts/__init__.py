"""What tests are built from: real servers, and nothing that pretends."""
