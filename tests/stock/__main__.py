from tests.stock import support_matrix

print(support_matrix())
