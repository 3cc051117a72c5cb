"""Floor protocols: reading one, deriving its figures and verdict, and checking the bundle that holds them."""
