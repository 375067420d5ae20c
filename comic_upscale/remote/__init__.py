"""Another machine that does the work: reached by SSH, rented by the hour, and not trusted."""
