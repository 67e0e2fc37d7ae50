"builtin.module"() <{sym_name = "kernel"}> ({
  "stable_mosaic.func.func"() ({
  ^bb0(%arg2: i32, %arg3: memref<1024xi32, #tpu.memory_space<smem>>, %arg4: memref<1024x128xf32, #tpu.memory_space<vmem>>, %arg5: memref<${array_rows}x128xf32, #tpu.memory_space<any>>, %arg6: memref<${array_rows}x128xf32, #tpu.memory_space<any>>, %arg7: memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>):
    %3 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %4 = "stable_mosaic.arith.constant"() {value = 4 : i32} : () -> i32
    %5 = "stable_mosaic.arith.addi"(%3, %4) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
    %6 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
    "stable_mosaic.scf.for"(%3, %5, %6) ({
    ^bb0(%arg8: i32):
      %8 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %9 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %10 = "stable_mosaic.arith.constant"() {value = 32 : i32} : () -> i32
      %11 = "stable_mosaic.arith.addi"(%9, %10) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %12 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %13 = "stable_mosaic.scf.for"(%9, %11, %12, %8) ({
      ^bb0(%arg9: i32, %arg10: i32):
        %132 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
        %133 = "stable_mosaic.arith.muli"(%arg8, %132) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %134 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %135 = "stable_mosaic.arith.muli"(%arg9, %134) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %136 = "stable_mosaic.arith.addi"(%133, %135) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %137 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %138 = "stable_mosaic.arith.addi"(%136, %137) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %139 = "stable_mosaic.arith.index_cast"(%138) : (i32) -> index
        %140 = "stable_mosaic.memref.load"(%arg3, %139) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %141 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %142 = "stable_mosaic.arith.cmpi"(%140, %141) {predicate = 5 : i64} : (i32, i32) -> i1
        %143 = "stable_mosaic.arith.extui"(%142) : (i1) -> i32
        %144 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %145 = "stable_mosaic.arith.cmpi"(%143, %144) {predicate = 1 : i64} : (i32, i32) -> i1
        "stable_mosaic.scf.if"(%145) ({
          %320 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %321 = "stable_mosaic.tpu.memref_slice"(%arg4, %138, %320) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %322 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %323 = "stable_mosaic.tpu.memref_slice"(%arg6, %140, %322) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%321, %323, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }, {
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i1) -> ()
        %146 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %147 = "stable_mosaic.arith.cmpi"(%140, %146) {predicate = 5 : i64} : (i32, i32) -> i1
        %148 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %149 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %150 = "stable_mosaic.arith.select"(%147, %148, %149) : (i1, i32, i32) -> i32
        %151 = "stable_mosaic.arith.addi"(%arg10, %150) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %152 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
        %153 = "stable_mosaic.arith.muli"(%arg8, %152) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %154 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %155 = "stable_mosaic.arith.muli"(%arg9, %154) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %156 = "stable_mosaic.arith.addi"(%153, %155) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %157 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %158 = "stable_mosaic.arith.addi"(%156, %157) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %159 = "stable_mosaic.arith.index_cast"(%158) : (i32) -> index
        %160 = "stable_mosaic.memref.load"(%arg3, %159) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %161 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %162 = "stable_mosaic.arith.cmpi"(%160, %161) {predicate = 5 : i64} : (i32, i32) -> i1
        %163 = "stable_mosaic.arith.extui"(%162) : (i1) -> i32
        %164 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %165 = "stable_mosaic.arith.cmpi"(%163, %164) {predicate = 1 : i64} : (i32, i32) -> i1
        "stable_mosaic.scf.if"(%165) ({
          %316 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %317 = "stable_mosaic.tpu.memref_slice"(%arg4, %158, %316) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %318 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %319 = "stable_mosaic.tpu.memref_slice"(%arg6, %160, %318) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%317, %319, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }, {
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i1) -> ()
        %166 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %167 = "stable_mosaic.arith.cmpi"(%160, %166) {predicate = 5 : i64} : (i32, i32) -> i1
        %168 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %169 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %170 = "stable_mosaic.arith.select"(%167, %168, %169) : (i1, i32, i32) -> i32
        %171 = "stable_mosaic.arith.addi"(%151, %170) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %172 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
        %173 = "stable_mosaic.arith.muli"(%arg8, %172) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %174 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %175 = "stable_mosaic.arith.muli"(%arg9, %174) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %176 = "stable_mosaic.arith.addi"(%173, %175) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %177 = "stable_mosaic.arith.constant"() {value = 2 : i32} : () -> i32
        %178 = "stable_mosaic.arith.addi"(%176, %177) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %179 = "stable_mosaic.arith.index_cast"(%178) : (i32) -> index
        %180 = "stable_mosaic.memref.load"(%arg3, %179) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %181 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %182 = "stable_mosaic.arith.cmpi"(%180, %181) {predicate = 5 : i64} : (i32, i32) -> i1
        %183 = "stable_mosaic.arith.extui"(%182) : (i1) -> i32
        %184 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %185 = "stable_mosaic.arith.cmpi"(%183, %184) {predicate = 1 : i64} : (i32, i32) -> i1
        "stable_mosaic.scf.if"(%185) ({
          %312 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %313 = "stable_mosaic.tpu.memref_slice"(%arg4, %178, %312) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %314 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %315 = "stable_mosaic.tpu.memref_slice"(%arg6, %180, %314) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%313, %315, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }, {
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i1) -> ()
        %186 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %187 = "stable_mosaic.arith.cmpi"(%180, %186) {predicate = 5 : i64} : (i32, i32) -> i1
        %188 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %189 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %190 = "stable_mosaic.arith.select"(%187, %188, %189) : (i1, i32, i32) -> i32
        %191 = "stable_mosaic.arith.addi"(%171, %190) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %192 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
        %193 = "stable_mosaic.arith.muli"(%arg8, %192) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %194 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %195 = "stable_mosaic.arith.muli"(%arg9, %194) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %196 = "stable_mosaic.arith.addi"(%193, %195) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %197 = "stable_mosaic.arith.constant"() {value = 3 : i32} : () -> i32
        %198 = "stable_mosaic.arith.addi"(%196, %197) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %199 = "stable_mosaic.arith.index_cast"(%198) : (i32) -> index
        %200 = "stable_mosaic.memref.load"(%arg3, %199) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %201 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %202 = "stable_mosaic.arith.cmpi"(%200, %201) {predicate = 5 : i64} : (i32, i32) -> i1
        %203 = "stable_mosaic.arith.extui"(%202) : (i1) -> i32
        %204 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %205 = "stable_mosaic.arith.cmpi"(%203, %204) {predicate = 1 : i64} : (i32, i32) -> i1
        "stable_mosaic.scf.if"(%205) ({
          %308 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %309 = "stable_mosaic.tpu.memref_slice"(%arg4, %198, %308) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %310 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %311 = "stable_mosaic.tpu.memref_slice"(%arg6, %200, %310) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%309, %311, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }, {
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i1) -> ()
        %206 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %207 = "stable_mosaic.arith.cmpi"(%200, %206) {predicate = 5 : i64} : (i32, i32) -> i1
        %208 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %209 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %210 = "stable_mosaic.arith.select"(%207, %208, %209) : (i1, i32, i32) -> i32
        %211 = "stable_mosaic.arith.addi"(%191, %210) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %212 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
        %213 = "stable_mosaic.arith.muli"(%arg8, %212) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %214 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %215 = "stable_mosaic.arith.muli"(%arg9, %214) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %216 = "stable_mosaic.arith.addi"(%213, %215) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %217 = "stable_mosaic.arith.constant"() {value = 4 : i32} : () -> i32
        %218 = "stable_mosaic.arith.addi"(%216, %217) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %219 = "stable_mosaic.arith.index_cast"(%218) : (i32) -> index
        %220 = "stable_mosaic.memref.load"(%arg3, %219) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %221 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %222 = "stable_mosaic.arith.cmpi"(%220, %221) {predicate = 5 : i64} : (i32, i32) -> i1
        %223 = "stable_mosaic.arith.extui"(%222) : (i1) -> i32
        %224 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %225 = "stable_mosaic.arith.cmpi"(%223, %224) {predicate = 1 : i64} : (i32, i32) -> i1
        "stable_mosaic.scf.if"(%225) ({
          %304 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %305 = "stable_mosaic.tpu.memref_slice"(%arg4, %218, %304) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %306 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %307 = "stable_mosaic.tpu.memref_slice"(%arg6, %220, %306) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%305, %307, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }, {
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i1) -> ()
        %226 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %227 = "stable_mosaic.arith.cmpi"(%220, %226) {predicate = 5 : i64} : (i32, i32) -> i1
        %228 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %229 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %230 = "stable_mosaic.arith.select"(%227, %228, %229) : (i1, i32, i32) -> i32
        %231 = "stable_mosaic.arith.addi"(%211, %230) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %232 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
        %233 = "stable_mosaic.arith.muli"(%arg8, %232) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %234 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %235 = "stable_mosaic.arith.muli"(%arg9, %234) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %236 = "stable_mosaic.arith.addi"(%233, %235) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %237 = "stable_mosaic.arith.constant"() {value = 5 : i32} : () -> i32
        %238 = "stable_mosaic.arith.addi"(%236, %237) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %239 = "stable_mosaic.arith.index_cast"(%238) : (i32) -> index
        %240 = "stable_mosaic.memref.load"(%arg3, %239) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %241 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %242 = "stable_mosaic.arith.cmpi"(%240, %241) {predicate = 5 : i64} : (i32, i32) -> i1
        %243 = "stable_mosaic.arith.extui"(%242) : (i1) -> i32
        %244 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %245 = "stable_mosaic.arith.cmpi"(%243, %244) {predicate = 1 : i64} : (i32, i32) -> i1
        "stable_mosaic.scf.if"(%245) ({
          %300 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %301 = "stable_mosaic.tpu.memref_slice"(%arg4, %238, %300) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %302 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %303 = "stable_mosaic.tpu.memref_slice"(%arg6, %240, %302) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%301, %303, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }, {
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i1) -> ()
        %246 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %247 = "stable_mosaic.arith.cmpi"(%240, %246) {predicate = 5 : i64} : (i32, i32) -> i1
        %248 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %249 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %250 = "stable_mosaic.arith.select"(%247, %248, %249) : (i1, i32, i32) -> i32
        %251 = "stable_mosaic.arith.addi"(%231, %250) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %252 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
        %253 = "stable_mosaic.arith.muli"(%arg8, %252) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %254 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %255 = "stable_mosaic.arith.muli"(%arg9, %254) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %256 = "stable_mosaic.arith.addi"(%253, %255) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %257 = "stable_mosaic.arith.constant"() {value = 6 : i32} : () -> i32
        %258 = "stable_mosaic.arith.addi"(%256, %257) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %259 = "stable_mosaic.arith.index_cast"(%258) : (i32) -> index
        %260 = "stable_mosaic.memref.load"(%arg3, %259) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %261 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %262 = "stable_mosaic.arith.cmpi"(%260, %261) {predicate = 5 : i64} : (i32, i32) -> i1
        %263 = "stable_mosaic.arith.extui"(%262) : (i1) -> i32
        %264 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %265 = "stable_mosaic.arith.cmpi"(%263, %264) {predicate = 1 : i64} : (i32, i32) -> i1
        "stable_mosaic.scf.if"(%265) ({
          %296 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %297 = "stable_mosaic.tpu.memref_slice"(%arg4, %258, %296) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %298 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %299 = "stable_mosaic.tpu.memref_slice"(%arg6, %260, %298) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%297, %299, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }, {
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i1) -> ()
        %266 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %267 = "stable_mosaic.arith.cmpi"(%260, %266) {predicate = 5 : i64} : (i32, i32) -> i1
        %268 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %269 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %270 = "stable_mosaic.arith.select"(%267, %268, %269) : (i1, i32, i32) -> i32
        %271 = "stable_mosaic.arith.addi"(%251, %270) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %272 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
        %273 = "stable_mosaic.arith.muli"(%arg8, %272) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %274 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %275 = "stable_mosaic.arith.muli"(%arg9, %274) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %276 = "stable_mosaic.arith.addi"(%273, %275) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %277 = "stable_mosaic.arith.constant"() {value = 7 : i32} : () -> i32
        %278 = "stable_mosaic.arith.addi"(%276, %277) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %279 = "stable_mosaic.arith.index_cast"(%278) : (i32) -> index
        %280 = "stable_mosaic.memref.load"(%arg3, %279) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %281 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %282 = "stable_mosaic.arith.cmpi"(%280, %281) {predicate = 5 : i64} : (i32, i32) -> i1
        %283 = "stable_mosaic.arith.extui"(%282) : (i1) -> i32
        %284 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %285 = "stable_mosaic.arith.cmpi"(%283, %284) {predicate = 1 : i64} : (i32, i32) -> i1
        "stable_mosaic.scf.if"(%285) ({
          %292 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %293 = "stable_mosaic.tpu.memref_slice"(%arg4, %278, %292) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %294 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %295 = "stable_mosaic.tpu.memref_slice"(%arg6, %280, %294) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%293, %295, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }, {
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i1) -> ()
        %286 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %287 = "stable_mosaic.arith.cmpi"(%280, %286) {predicate = 5 : i64} : (i32, i32) -> i1
        %288 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %289 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %290 = "stable_mosaic.arith.select"(%287, %288, %289) : (i1, i32, i32) -> i32
        %291 = "stable_mosaic.arith.addi"(%271, %290) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        "stable_mosaic.scf.yield"(%291) : (i32) -> ()
      }) : (i32, i32, i32, i32) -> i32
      %14 = "stable_mosaic.arith.constant"() {value = 32 : i32} : () -> i32
      %15 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
      %16 = "stable_mosaic.arith.andi"(%13, %15) : (i32, i32) -> i32
      %17 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %18 = "stable_mosaic.arith.cmpi"(%16, %17) {predicate = 1 : i64} : (i32, i32) -> i1
      %19 = "stable_mosaic.arith.extui"(%18) : (i1) -> i32
      %20 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %21 = "stable_mosaic.arith.cmpi"(%19, %20) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%21) ({
        %126 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %127 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %128 = "stable_mosaic.tpu.memref_slice"(%arg4, %126, %127) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<256x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %129 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %130 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %131 = "stable_mosaic.tpu.memref_slice"(%arg4, %129, %130) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<256x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %128, %131) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<256x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<256x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %22 = "stable_mosaic.arith.constant"() {value = 128 : i32} : () -> i32
      %23 = "stable_mosaic.arith.andi"(%13, %22) : (i32, i32) -> i32
      %24 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %25 = "stable_mosaic.arith.cmpi"(%23, %24) {predicate = 1 : i64} : (i32, i32) -> i1
      %26 = "stable_mosaic.arith.extui"(%25) : (i1) -> i32
      %27 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %28 = "stable_mosaic.arith.cmpi"(%26, %27) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%28) ({
        %120 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %121 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %122 = "stable_mosaic.tpu.memref_slice"(%arg4, %120, %121) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<128x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %123 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %124 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %125 = "stable_mosaic.tpu.memref_slice"(%arg4, %123, %124) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<128x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %122, %125) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<128x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<128x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %29 = "stable_mosaic.arith.constant"() {value = 64 : i32} : () -> i32
      %30 = "stable_mosaic.arith.andi"(%13, %29) : (i32, i32) -> i32
      %31 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %32 = "stable_mosaic.arith.cmpi"(%30, %31) {predicate = 1 : i64} : (i32, i32) -> i1
      %33 = "stable_mosaic.arith.extui"(%32) : (i1) -> i32
      %34 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %35 = "stable_mosaic.arith.cmpi"(%33, %34) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%35) ({
        %114 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %115 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %116 = "stable_mosaic.tpu.memref_slice"(%arg4, %114, %115) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<64x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %117 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %118 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %119 = "stable_mosaic.tpu.memref_slice"(%arg4, %117, %118) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<64x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %116, %119) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<64x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<64x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %36 = "stable_mosaic.arith.constant"() {value = 32 : i32} : () -> i32
      %37 = "stable_mosaic.arith.andi"(%13, %36) : (i32, i32) -> i32
      %38 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %39 = "stable_mosaic.arith.cmpi"(%37, %38) {predicate = 1 : i64} : (i32, i32) -> i1
      %40 = "stable_mosaic.arith.extui"(%39) : (i1) -> i32
      %41 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %42 = "stable_mosaic.arith.cmpi"(%40, %41) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%42) ({
        %108 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %109 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %110 = "stable_mosaic.tpu.memref_slice"(%arg4, %108, %109) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<32x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %111 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %112 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %113 = "stable_mosaic.tpu.memref_slice"(%arg4, %111, %112) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<32x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %110, %113) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<32x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<32x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %43 = "stable_mosaic.arith.constant"() {value = 16 : i32} : () -> i32
      %44 = "stable_mosaic.arith.andi"(%13, %43) : (i32, i32) -> i32
      %45 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %46 = "stable_mosaic.arith.cmpi"(%44, %45) {predicate = 1 : i64} : (i32, i32) -> i1
      %47 = "stable_mosaic.arith.extui"(%46) : (i1) -> i32
      %48 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %49 = "stable_mosaic.arith.cmpi"(%47, %48) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%49) ({
        %102 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %103 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %104 = "stable_mosaic.tpu.memref_slice"(%arg4, %102, %103) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<16x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %105 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %106 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %107 = "stable_mosaic.tpu.memref_slice"(%arg4, %105, %106) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<16x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %104, %107) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<16x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<16x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %50 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %51 = "stable_mosaic.arith.andi"(%13, %50) : (i32, i32) -> i32
      %52 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %53 = "stable_mosaic.arith.cmpi"(%51, %52) {predicate = 1 : i64} : (i32, i32) -> i1
      %54 = "stable_mosaic.arith.extui"(%53) : (i1) -> i32
      %55 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %56 = "stable_mosaic.arith.cmpi"(%54, %55) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%56) ({
        %96 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %97 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %98 = "stable_mosaic.tpu.memref_slice"(%arg4, %96, %97) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<8x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %99 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %100 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %101 = "stable_mosaic.tpu.memref_slice"(%arg4, %99, %100) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<8x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %98, %101) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<8x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<8x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %57 = "stable_mosaic.arith.constant"() {value = 4 : i32} : () -> i32
      %58 = "stable_mosaic.arith.andi"(%13, %57) : (i32, i32) -> i32
      %59 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %60 = "stable_mosaic.arith.cmpi"(%58, %59) {predicate = 1 : i64} : (i32, i32) -> i1
      %61 = "stable_mosaic.arith.extui"(%60) : (i1) -> i32
      %62 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %63 = "stable_mosaic.arith.cmpi"(%61, %62) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%63) ({
        %90 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %91 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %92 = "stable_mosaic.tpu.memref_slice"(%arg4, %90, %91) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<4x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %93 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %94 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %95 = "stable_mosaic.tpu.memref_slice"(%arg4, %93, %94) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<4x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %92, %95) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<4x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<4x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %64 = "stable_mosaic.arith.constant"() {value = 2 : i32} : () -> i32
      %65 = "stable_mosaic.arith.andi"(%13, %64) : (i32, i32) -> i32
      %66 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %67 = "stable_mosaic.arith.cmpi"(%65, %66) {predicate = 1 : i64} : (i32, i32) -> i1
      %68 = "stable_mosaic.arith.extui"(%67) : (i1) -> i32
      %69 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %70 = "stable_mosaic.arith.cmpi"(%68, %69) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%70) ({
        %84 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %85 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %86 = "stable_mosaic.tpu.memref_slice"(%arg4, %84, %85) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<2x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %87 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %88 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %89 = "stable_mosaic.tpu.memref_slice"(%arg4, %87, %88) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<2x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %86, %89) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<2x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<2x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %71 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %72 = "stable_mosaic.arith.andi"(%13, %71) : (i32, i32) -> i32
      %73 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %74 = "stable_mosaic.arith.cmpi"(%72, %73) {predicate = 1 : i64} : (i32, i32) -> i1
      %75 = "stable_mosaic.arith.extui"(%74) : (i1) -> i32
      %76 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %77 = "stable_mosaic.arith.cmpi"(%75, %76) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%77) ({
        %78 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %79 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %80 = "stable_mosaic.tpu.memref_slice"(%arg4, %78, %79) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %81 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %82 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %83 = "stable_mosaic.tpu.memref_slice"(%arg4, %81, %82) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<1024x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg7, %80, %83) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<1x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i32, i32, i32) -> ()
    %7 = "stable_mosaic.arith.constant"() {value = 4 : i32} : () -> i32
    "stable_mosaic.func.return"() : () -> ()
  }) {dimension_semantics = [#tpu.dimension_semantics<parallel>], function_type = (i32, memref<1024xi32, #tpu.memory_space<smem>>, memref<1024x128xf32, #tpu.memory_space<vmem>>, memref<${array_rows}x128xf32, #tpu.memory_space<any>>, memref<${array_rows}x128xf32, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> (), iteration_bounds = array<i64: ${blocks}>, scalar_prefetch = 0 : i64, scratch_operands = 1 : i64, sym_name = "main", window_params = [{transform_indices = @transform_0, window_bounds = array<i64: 1024>}, {transform_indices = @transform_1, window_bounds = array<i64: 1024, 128>}, {}, {}]} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg1: i32):
    %2 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%arg1) : (i32) -> ()
  }) {function_type = (i32) -> i32, sym_name = "transform_0"} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg0: i32):
    %0 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %1 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%arg0, %0) : (i32, i32) -> ()
  }) {function_type = (i32) -> (i32, i32), sym_name = "transform_1"} : () -> ()
}) {stable_mosaic.version = 7 : i64} : () -> ()
