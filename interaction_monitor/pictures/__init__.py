"""What a history looks like: charts on axes, figures of charts, and the panels that TensorBoard shows."""
