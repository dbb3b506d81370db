// Full adders on their way to the library. `rtlgen_fa1` is one bit that stays a full adder.
(* techmap_celltype = "rtlgen_fa" *)
module rtlgen_map_fa #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, b, c, output [WIDTH-1:0] s, co);
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    rtlgen_fa1 cell (.a(a[i]), .b(b[i]), .c(c[i]), .s(s[i]), .co(co[i]));
  end endgenerate
endmodule

// Yosys' own, as it makes of multiplications and long sums.
(* techmap_celltype = "$fa" *)
module rtlgen_map_yosys_fa #(parameter WIDTH = 1)
  (input [WIDTH-1:0] A, B, C, output [WIDTH-1:0] X, Y);
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    rtlgen_fa1 cell (.a(A[i]), .b(B[i]), .c(C[i]), .s(Y[i]), .co(X[i]));
  end endgenerate
endmodule
