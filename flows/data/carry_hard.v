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
