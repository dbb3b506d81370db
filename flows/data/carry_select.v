// The lower half ripples; the upper half is made for both carries and selected.
(* techmap_celltype = "rtlgen_sum" *)
module rtlgen_sum_select #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, b, input ci, output [WIDTH-1:0] s, co);
  localparam LOW = WIDTH < 6 ? WIDTH : (WIDTH + 1) / 2;
  wire [WIDTH:0] k;
  assign k[0] = ci;
  assign co = k[WIDTH:1];
  genvar i;
  generate for (i = 0; i < LOW; i = i + 1) begin : low
    assign k[i+1] = (a[i] & b[i]) | (k[i] & (a[i] ^ b[i]));
  end endgenerate
  generate if (LOW < WIDTH) begin : high
    // With a carry in, bit i's carry is that without one, or the run of propagates below it.
    wire [WIDTH:LOW] none, run;
    assign none[LOW] = 1'b0;
    assign run[LOW] = 1'b1;
    for (i = LOW; i < WIDTH; i = i + 1) begin : bits
      assign none[i+1] = (a[i] & b[i]) | (none[i] & (a[i] ^ b[i]));
      assign run[i+1] = run[i] & (a[i] | b[i]);
      assign k[i+1] = none[i+1] | (k[LOW] & run[i+1]);
    end
  end endgenerate
  assign s = a ^ b ^ k[WIDTH-1:0];
endmodule

// a + ci if up, else a - 1 + ci: runs of ones and of zeros settle before the carry comes.
(* techmap_celltype = "rtlgen_step" *)
module rtlgen_step_select #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, input up, ci, output [WIDTH-1:0] s);
  wire inc = up & ci, dec = ~up & ~ci;
  wire [WIDTH-1:0] ones, zeros;
  assign ones[0] = 1'b1;
  assign zeros[0] = 1'b1;
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    if (i) begin
      assign ones[i] = ones[i-1] & a[i-1];
      assign zeros[i] = zeros[i-1] & ~a[i-1];
    end
    assign s[i] = a[i] ^ (inc & ones[i] | dec & zeros[i]);
  end endgenerate
endmodule
