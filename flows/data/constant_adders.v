// A full adder with a constant input is a half adder or less: plain logic.
(* techmap_celltype = "rtlgen_fa1" *)
module rtlgen_constant_fa (input a, b, c, output s, co);
  parameter _TECHMAP_CONSTMSK_a_ = 0;
  parameter _TECHMAP_CONSTMSK_b_ = 0;
  parameter _TECHMAP_CONSTMSK_c_ = 0;
  wire _TECHMAP_FAIL_ = !(_TECHMAP_CONSTMSK_a_ || _TECHMAP_CONSTMSK_b_ || _TECHMAP_CONSTMSK_c_);
  assign s = a ^ b ^ c;
  assign co = (a & b) | (c & (a ^ b));
endmodule
