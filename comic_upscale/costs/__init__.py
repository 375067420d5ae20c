"""The cost of a job: arithmetic over counts of pixels, with rates and prices as data. Independent of torch and jobs."""
