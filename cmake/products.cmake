# What is built out of the modules. Filled in as the products appear.
