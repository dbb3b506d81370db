// Additions ripple through full-adder cells: small, slow.
(* techmap_celltype = "rtlgen_sum" *)
module rtlgen_sum_hard #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, b, input ci, output [WIDTH-1:0] s, co);
  wire [WIDTH:0] k;
  assign k[0] = ci;
  assign co = k[WIDTH:1];
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    rtlgen_fa1 cell (.a(a[i]), .b(b[i]), .c(k[i]), .s(s[i]), .co(k[i+1]));
  end endgenerate
endmodule

(* techmap_celltype = "rtlgen_step_carries" *)
module rtlgen_step_ripple #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, input up, ci, output [WIDTH:0] k);
  assign k[0] = ci;
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    assign k[i+1] = up ? a[i] & k[i] : a[i] | k[i];
  end endgenerate
endmodule
