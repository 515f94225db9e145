"""What is stored and how: SQL migrations, JetStream topology, generated schemas."""
