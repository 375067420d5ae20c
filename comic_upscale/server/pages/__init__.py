"""The pages for people: HTML made on the server, which reads without JavaScript and loads nothing from elsewhere."""
