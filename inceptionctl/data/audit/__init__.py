"""`inceptionctl data check`: what is wrong with the images of a data set, and what is worth knowing of them."""
