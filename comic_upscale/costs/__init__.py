"""What a job costs: arithmetic over counts of pixels, and rates and prices as data. Knows no torch and no job."""
