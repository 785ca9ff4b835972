"""What a network costs: parameters and multiply-adds, by fvcore's counting."""
