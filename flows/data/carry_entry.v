// Every addition becomes `rtlgen_sum`, which the carry forms implement; `co[i]` is bit i's carry.
(* techmap_celltype = "rtlgen_add" *)
module rtlgen_map_add #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, b, input ci, output [WIDTH-1:0] s, output co);
  wire [WIDTH-1:0] k;
  rtlgen_sum #(.WIDTH(WIDTH)) sum (.a(a), .b(b), .ci(ci), .s(s), .co(k));
  assign co = k[WIDTH-1];
endmodule

(* techmap_celltype = "$alu" *)
module rtlgen_map_alu (A, B, CI, BI, X, Y, CO);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  input CI, BI;
  output [Y_WIDTH-1:0] X, Y, CO;
  wire [Y_WIDTH-1:0] a, b;
  // A negation is an addition of nothing: an operand without bits.
  generate
    if (A_WIDTH == 0) assign a = 0;
    else \$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH)) pos_a (.A(A), .Y(a));
    if (B_WIDTH == 0) assign b = 0;
    else \$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH)) pos_b (.A(B), .Y(b));
  endgenerate
  wire [Y_WIDTH-1:0] bb = b ^ {Y_WIDTH{BI}};
  assign X = a ^ bb;
  rtlgen_sum #(.WIDTH(Y_WIDTH)) sum (.a(a), .b(bb), .ci(CI), .s(Y), .co(CO));
endmodule
