"""What a run looks like: charts on axes, figures of charts, sentences and tables, and what TensorBoard shows."""
