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

// a + ci if up, else a - 1 + ci: bits change as far as those below are all ones (up) or zeros.
(* techmap_celltype = "rtlgen_step" *)
module rtlgen_step_chain #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, input up, ci, output [WIDTH-1:0] s);
  wire go = ~(up ^ ci);
  wire [WIDTH-1:0] same;
  assign same[0] = 1'b1;
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    if (i) assign same[i] = same[i-1] & ~(a[i-1] ^ up);
    assign s[i] = a[i] ^ (go & same[i]);
  end endgenerate
endmodule
