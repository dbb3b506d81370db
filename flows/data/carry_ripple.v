// Additions ripple through plain logic: faster a bit than cells, a little larger.
(* techmap_celltype = "rtlgen_sum" *)
module rtlgen_sum_ripple #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, b, input ci, output [WIDTH-1:0] s, co);
  wire [WIDTH:0] k;
  assign k[0] = ci;
  assign co = k[WIDTH:1];
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    assign k[i+1] = (a[i] & b[i]) | (k[i] & (a[i] ^ b[i]));
  end endgenerate
  assign s = a ^ b ^ k[WIDTH-1:0];
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
