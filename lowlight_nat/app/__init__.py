"Widgets and the page in the browser."
